//! The whole product from the outside: the real programs as processes, real packages, real signals.

mod access;
mod api;
mod audit;
mod demo;
mod durability;
mod fleet;
mod in_use;
mod leftovers;
mod membership;
mod packages;
mod publishers;
mod recovery;
mod refusals;
mod requests;
mod story;
