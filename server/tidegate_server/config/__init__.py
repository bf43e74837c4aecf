"""The only reader of the environment and of files. Durations are `timedelta`, sizes are bytes."""

from tidegate_server.config.addresses import Address
from tidegate_server.config.load import ConfigError, load_settings
from tidegate_server.config.push import Push
from tidegate_server.config.settings import Settings

__all__ = ["Address", "ConfigError", "Push", "Settings", "load_settings"]
