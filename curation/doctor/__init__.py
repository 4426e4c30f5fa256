"""What would go wrong on this machine, before it does.

doctor.py      the checks of machine, disk, clock and libraries
network.py     names and object stores
detectors.py   weights, and the provider that is really active
"""
