//! Files and built-in sources to samples in memory.
