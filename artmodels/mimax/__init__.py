"""Weakly supervised detection: MI-max, its polyhedral form and the estimators it is compared with."""

from artmodels.bags import Bags
from artmodels.mimax.baselines import MAX, MAXA, MISVM, miSVM
from artmodels.mimax.detector import Detected, Detector
from artmodels.mimax.minet import MINet
from artmodels.mimax.pipeline import MIMax, MIMaxStep

__all__ = ["MAX", "MAXA", "MISVM", "Bags", "Detected", "Detector", "MIMax", "MIMaxStep", "MINet", "miSVM"]
