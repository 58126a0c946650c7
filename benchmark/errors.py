"""The two ways in which something that was asked for cannot be had."""


class UserError(Exception):
    """A mistake that the user can mend: one sentence that says what was wrong, what was expected and what exists."""


class NotApplicable(Exception):
    """Raised by a method or metric that has no meaning for this model or data; the reason is filed and shown."""
