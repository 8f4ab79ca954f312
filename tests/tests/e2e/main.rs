//! The whole product from the outside: the real programs as processes, real packages, real signals.

mod access;
mod api;
mod audit;
mod bad_input;
mod crowds;
mod damage;
mod demo;
mod disk;
mod doctor;
mod durability;
mod fleet;
mod identity;
mod in_use;
mod leftovers;
mod limits;
mod lines;
mod local_user;
mod membership;
mod networks;
mod packages;
mod publishers;
mod recovery;
mod refusals;
mod requests;
mod story;
mod takeover;
