"""`art-resnet`: a small ResNet of our own whose features follow ResNet-50's and stay the same under another style.

The network itself is `artmodels.features.networks.art_resnet_nodes`; load it with
`artmodels.features.load("art-resnet")`.
"""
