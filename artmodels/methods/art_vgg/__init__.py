"""`art-vgg`: a small VGG of our own whose features and Gram matrices follow VGG-19's; how it was trained and measured.

The network itself is `artmodels.features.networks.art_vgg_nodes`; load it with `artmodels.features.load("art-vgg")`.
"""
