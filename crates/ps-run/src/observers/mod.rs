//! Who follows a run: TensorBoard, and what inspects whole weights.

pub(crate) mod tensorboard;
pub(crate) mod weight_inspector;
