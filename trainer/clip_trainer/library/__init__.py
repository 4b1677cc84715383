"""What `clip_trainer.api` offers: OpenCLIP's functions, by concept. Import them from `clip_trainer`."""
