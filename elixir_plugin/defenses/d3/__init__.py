"""D3: detoxify a backdoored model by moving its head away from where it was received."""

from .defense import D3 as D3
from .settings import D3Settings as D3Settings
