"""What the real package has under this name."""


def get_cann_version(module="CANN"):
    return f"stand-in for {module}"
