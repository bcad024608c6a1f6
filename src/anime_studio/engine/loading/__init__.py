"""From the files of a checkpoint to models on a device."""
