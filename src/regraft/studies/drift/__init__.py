"""Say whether a run is used on other pictures than those of its validation, which are strange and what to label."""
