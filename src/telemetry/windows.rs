//! RED over the last 10 seconds and the last minute, on the control thread.
