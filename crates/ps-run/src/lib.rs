//! From a run file to loaded data and model, and from a run to its folder and progress.
