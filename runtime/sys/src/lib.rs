//! The system calls Berth makes, and its only unsafe code.
