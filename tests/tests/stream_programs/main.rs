//! Programs of others that talk over TCP, as they are installed, driven as their users do, under freena on both sides or
//! on one. `FREENA_TEST_NATIVE=1` runs them over kernel TCP alone, for comparison.

mod files;
mod hosts;
mod languages;
mod measuring;
mod stores;
mod web;
