"""Methods beside the reference implementations of other libraries: the source of docs/parity.md and docs/speed.md."""
