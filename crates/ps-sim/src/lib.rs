//! Server and workers on one thread in virtual time, with seeded faults.
