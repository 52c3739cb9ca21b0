"""A campaign of faults: kills, failing disks, a wrong clock, lack of memory, damaged files, and ends under load."""
