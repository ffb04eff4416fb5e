"""From a cohort to the images, label maps and pairs that are benchmarked."""
