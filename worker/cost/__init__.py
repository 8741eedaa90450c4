"""What winning users back costs in full: reckoned before a campaign, and summed up after it."""
