//! A worker: gradients of its leaves, over gRPC.
