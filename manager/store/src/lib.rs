//! sutler-store
