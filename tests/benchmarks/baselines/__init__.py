"""What ours is compared with: one short file each, as fast as such code honestly is."""
