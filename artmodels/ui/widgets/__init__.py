"""Parts of pages that gradio does not have: a canvas for boxes, and what one looks at evidence and alignments with."""
