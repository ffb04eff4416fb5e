"""Phantom knees: label maps, images simulated from label maps, people to train networks on."""
