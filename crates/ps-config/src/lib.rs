//! The run file and the flags of every process.
