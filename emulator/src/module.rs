//! A parsed and lowered PTX module: its kernels with their parameters, registers and shared memory.

use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;

use crate::code::{Bank, Code, Fixed};
use crate::error::{Error, Result};
use crate::lower;
use crate::ptx::ast::{Ast, Function, Space, Variable};
use crate::ptx::{device_runtime, parser};

/// A parameter of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    pub name: String,
    /// Its type as written, such as `.u64`, or `.b8[40]`.
    pub ty: String,
    /// Offset and size in bytes in the parameter block.
    pub offset: u32,
    pub size: u32,
}

/// A kernel of a module.
pub struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    /// Static shared memory in bytes.
    pub shared_bytes: u32,
    /// Local memory of a thread in bytes: arrays and call parameters.
    pub local_bytes: u32,
    /// The most registers (of 32 bits) live at once: what any compiler needs at least.
    pub live_registers: u32,
    /// `.maxntid`, as a product, and `.reqntid`.
    pub max_threads: Option<u32>,
    pub required_threads: Option<[u32; 3]>,
    /// `.reqnctapercluster`, `.explicitcluster` and `.maxclusterrank`.
    pub required_cluster: Option<[u32; 3]>,
    pub explicit_cluster: bool,
    pub max_cluster_rank: Option<u32>,
    /// `.maxnreg` and `.minnctapersm`.
    pub max_registers: Option<u32>,
    pub min_blocks: Option<u32>,
    pub(crate) code: Code,
}

impl Kernel {
    /// Bytes of the parameter block.
    pub fn param_bytes(&self) -> u32 {
        self.params.last().map_or(0, |p| p.offset + p.size)
    }
}

/// A PTX module. Cheap to clone.
#[derive(Clone)]
pub struct Module(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub kernels: Vec<Kernel>,
    pub variables: Vec<Variable>,
    /// Functions, and their place in the file: of the definition where there is one.
    pub functions: HashMap<String, usize>,
    pub files: HashMap<u32, String>,
    pub target: String,
}

impl Module {
    /// Parses PTX text, checks it, and lowers every kernel.
    ///
    /// # Errors
    /// `Error::Parse` with the line: malformed text, an instruction form that is not known or not supported, operands
    /// of the wrong type, names that are not declared.
    ///
    /// # Example
    /// ```
    /// let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry nothing(.param .u32 n) { ret; }";
    /// let module = handloom_emulator::Module::parse(ptx)?;
    /// assert_eq!(module.kernels()[0].name, "nothing");
    /// # Ok::<(), handloom_emulator::Error>(())
    /// ```
    pub fn parse(ptx: &str) -> Result<Module> {
        let mut ast = parser::parse(ptx)?;
        device_runtime::supply(&mut ast)?;
        for v in &ast.variables {
            if v.is_extern && v.space != Space::Shared {
                let message = format!("`{}` is defined in another module; linking is not supported", v.name);
                return Err(Error::Parse { line: v.line, message });
            }
        }
        let mut entries: Vec<&Function> = Vec::new();
        let mut names = std::collections::HashSet::new();
        for function in ast.functions.iter().filter(|f| f.is_entry && f.body.is_some()) {
            if !names.insert(function.name.as_str()) {
                let message = format!("kernel `{}` is defined twice", function.name);
                return Err(Error::Parse { line: function.line, message });
            }
            entries.push(function);
        }
        // In file order, so that the first error is the one reported.
        let lowered: Vec<Result<Kernel>> = match entries.len() {
            0 | 1 => entries.iter().map(|f| kernel(&ast, f)).collect(),
            _ => entries.par_iter().map(|f| kernel(&ast, f)).collect(),
        };
        let kernels = lowered.into_iter().collect::<Result<Vec<Kernel>>>()?;
        let mut functions = HashMap::new();
        for (i, f) in ast.functions.iter().enumerate() {
            if f.body.is_some() || !functions.contains_key(&f.name) {
                functions.insert(f.name.clone(), i);
            }
        }
        Ok(Module(Arc::new(Inner {
            kernels,
            variables: ast.variables,
            functions,
            files: ast.files,
            target: ast.target,
        })))
    }

    pub fn kernels(&self) -> &[Kernel] {
        &self.0.kernels
    }

    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.0.kernels.iter().find(|k| k.name == name)
    }

    /// The architecture the PTX was made for, such as `sm_80`.
    pub fn target(&self) -> &str {
        &self.0.target
    }
}

fn kernel(ast: &Ast, function: &Function) -> Result<Kernel> {
    let code = lower::lower(ast, function)?;
    let mut offset = 0u32;
    let mut params = Vec::new();
    for p in &function.params {
        offset = offset.div_ceil(p.align) * p.align;
        let elements = p.size / p.ty.bytes().max(1) as u64;
        let ty = if elements > 1 { format!("{}[{elements}]", p.ty) } else { p.ty.to_string() };
        params.push(Param { name: p.name.clone(), ty, offset, size: p.size as u32 });
        offset += p.size as u32;
    }
    let block = params.last().map_or(0, |p: &Param| p.offset + p.size);
    // Loads of parameters mostly have constant offsets: checked here, once. Others add them to a register.
    let zero = |slot: u16| {
        let fixed = &code.frames[0].fixed;
        fixed.iter().any(|&(f, bank, at)| matches!(f, Fixed::Constant(0)) && bank == Bank::R32 && at == slot)
    };
    for (inst, info) in code.insts.iter().zip(&code.info) {
        if let crate::code::Kind::Load(index) = inst.kind {
            let op = &code.mems[index as usize];
            let end = op.offset + op.bytes as i64 * op.count as i64;
            let outside = op.space == Space::Param && (op.offset < 0 || end > block as i64);
            if outside && zero(code.pool[inst.pool as usize + op.count as usize]) {
                let message = format!("reads bytes {} to {end} of {block} B of kernel parameters", op.offset);
                return Err(Error::Parse { line: info.ptx_line, message });
            }
        }
    }
    Ok(Kernel {
        name: function.name.clone(),
        params,
        shared_bytes: code.shared_bytes,
        local_bytes: code.frames.first().map_or(0, |f| f.local_bytes),
        live_registers: code.max_live,
        max_threads: function.max_threads,
        required_threads: function.required_threads,
        required_cluster: function.required_cluster,
        explicit_cluster: function.explicit_cluster,
        max_cluster_rank: function.max_cluster_rank,
        max_registers: function.max_registers,
        min_blocks: function.min_blocks,
        code,
    })
}
