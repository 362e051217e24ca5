//! The parameter server: holds the weights, closes the rounds.
