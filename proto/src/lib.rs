//! sutler-proto
