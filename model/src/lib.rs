//! Models, objectives, data and training.
