//! The configuration of cutover: the [`index`] types of its lists, and [`config`], which turns text into a valid
//! [`Spec`](config::Spec).

#![warn(unreachable_pub, unused_qualifications)]

// These two first, because the modules below use their macros.
#[macro_use]
pub mod index;
#[macro_use]
mod words;

pub mod config;
