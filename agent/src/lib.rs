//! sutler-agent
