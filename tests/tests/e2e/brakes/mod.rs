//! What holds work back over all jobs: what an operator stopped, breakers and budgets; and what a job does by itself about what failed
//! and who is not there.

mod breakers;
mod budgets;
mod offline;
mod retries;
mod stops;
