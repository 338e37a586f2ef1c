"""Dirty pages: logged by devices, tracked by IOMMUs."""
