# What cffi builds from api.h, which is the documentation of every function and struct of the core.
from typing import Any

ffi: Any
lib: Any
