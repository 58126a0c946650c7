"""Metrics of explanation quality, one file a metric or close family; `conf/metrics/*.yaml` is their only register."""
