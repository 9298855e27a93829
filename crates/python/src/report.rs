//! A program's plans as the page that `fusec report` writes.

use fusec_fuse::{Mode, Options, Plan, plan};
use fusec_report::collect::Regime;
use fusec_report::{CollectError, Subject, collect, page};
use fusec_runtime::program::{Program, ProgramError};

/// The page, or why it cannot be filled.
pub(crate) fn page_of(program: &Program) -> Result<Result<String, String>, ProgramError> {
    let kernels = program.kernels()?;
    let told: Vec<Options<'_>> = kernels
        .regimes
        .iter()
        .map(|regime| program.planning(&kernels, regime.planned.plan.shape))
        .collect();
    let unfused: Vec<Plan> = told
        .iter()
        .map(|options| {
            let options = Options {
                mode: Mode::Unfused,
                ..options.clone()
            };
            Ok(plan(program.graph(), &options)?.plan)
        })
        .collect::<Result<_, ProgramError>>()?;
    let regimes = kernels.regimes.iter().zip(told).zip(&unfused);
    let subject = Subject {
        label: program.options().mode.to_string(),
        manifest: &kernels.manifest,
        regimes: regimes
            .map(|((regime, options), unfused)| Regime {
                planned: &regime.planned,
                options,
                unfused,
                measured: None,
                unfused_measured: None,
            })
            .collect(),
        resources: vec![None; kernels.manifest.kernels.len()],
        not_compiled: Some("`fusec report` on the command line looks at compiled kernels".into()),
    };
    let report = collect(
        &program.graph().name,
        program.sources(),
        &kernels.profile,
        &[subject],
    );
    let report = report.map_err(|error| match error {
        CollectError::Explain(error) => ProgramError::from(error),
        CollectError::Memory(error) => ProgramError::from(error),
    })?;
    Ok(page(&report).map_err(|error| error.to_string()))
}
