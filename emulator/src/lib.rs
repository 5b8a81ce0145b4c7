pub mod error;
pub mod exec { pub mod lanes; pub mod fast; pub mod scalar; pub mod soft; }
pub mod ptx;
