"""What the pages of the gallery share: look, controls, checks, what runs behind a button, uploads.

A Space builds its controls, writes a generator of updates for each of its buttons, most of them a call of `show_steps`,
`show_pass` or `show_batch`, and hands both to `connect`. Needs gradio, which the extra `demo` installs.
"""

import os
from importlib.util import find_spec

import lazy_loader

from artmodels.errors import ConfigError

if find_spec("gradio") is None:
    raise ConfigError("The demos need gradio, which is not installed: pip install 'artmodels[demo]'")
# gradio would send statistics home, and sum up its last 10 000 calls at each new one.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "50")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
