//! sutler-content
