//! sutler
