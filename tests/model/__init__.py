"""The shared ring's algorithm under an exhaustive scheduler; README.md says what that proves."""
