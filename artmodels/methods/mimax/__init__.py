"""Weakly supervised detection: MI-max, its polyhedral form and the estimators it is compared with."""

from artmodels.data.bags import Bags
from artmodels.methods.mimax.baselines.baselines import MAX, MAXA, MISVM, miSVM
from artmodels.methods.mimax.baselines.minet import MINet
from artmodels.methods.mimax.detector import Detected, Detector
from artmodels.methods.mimax.pipeline import MIMax, MIMaxStep

__all__ = ["MAX", "MAXA", "MISVM", "Bags", "Detected", "Detector", "MIMax", "MIMaxStep", "MINet", "miSVM"]
