"""What single formats need: bounds of their structure, TIFF beyond Pillow, and what files say of their origin."""
