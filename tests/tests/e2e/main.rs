//! The whole product from the outside: the real programs as processes, real packages, real signals.

mod api;
mod demo;
mod fleet;
mod leftovers;
mod membership;
mod packages;
mod publishers;
mod recovery;
mod refusals;
mod story;
