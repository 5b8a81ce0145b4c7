//! From PTX text to a syntax tree: lexer, the opcode table, recursive descent.

pub mod ast;
pub mod device_runtime;
pub mod lexer;
pub mod link;
pub mod parser;
pub mod table;
