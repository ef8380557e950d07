//! The exposition, on the control thread.
