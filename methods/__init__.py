"""Attribution methods, one file a method or close family; `conf/methods/*.yaml` is their only register."""
