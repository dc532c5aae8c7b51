"""Computer-vision methods for art: verified weights, honest errors, and a gallery that anyone can use.

What `__init__.pyi` lists loads on first use, so that `import artmodels` stays instant: PyTorch, Pillow and NumPy are
imported with the first of it, not before.
"""

import warnings

import lazy_loader

# In a notebook without ipywidgets tqdm's bars are text, which is no fault; huggingface_hub imports it as we do.
warnings.filterwarnings("ignore", message="IProgress not found")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
