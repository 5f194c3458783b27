use std::io::BufRead as _;

use anyhow::{Context as _, bail};
use postroad_msa::{add_user, list_users, remove_user, set_password};

use crate::cli::{UserArguments, UserOrder};
use crate::output::line;

pub(crate) fn run(order: UserOrder) -> anyhow::Result<()> {
    match order {
        UserOrder::Add(arguments) => {
            // Said before a password is asked for.
            let directory = arguments.file.parent();
            if let Some(directory) = directory.filter(|d| !d.as_os_str().is_empty())
                && !directory.is_dir()
            {
                bail!(
                    "there is no directory {}; make it, or name another file with --file",
                    directory.display()
                );
            }
            if let Ok(users) = list_users(&arguments.file)
                && users.contains_key(&arguments.name)
            {
                bail!(
                    "{} has a user {} already; `postroad user passwd` changes the password",
                    arguments.file.display(),
                    arguments.name
                );
            }
            add_user(&arguments.file, &arguments.name, &password(&arguments)?)?;
        }
        UserOrder::Passwd(arguments) => {
            set_password(&arguments.file, &arguments.name, &password(&arguments)?)?;
        }
        UserOrder::Remove { name, file } => remove_user(&file, &name)?,
        UserOrder::List { file, json } => {
            for (name, user) in list_users(&file)? {
                let addresses: Vec<_> = user.addresses.iter().map(ToString::to_string).collect();
                if json {
                    line(format_args!(
                        "{}",
                        serde_json::json!({ "name": name, "addresses": addresses, "disabled": user.disabled })
                    ))?;
                } else {
                    line(format_args!(
                        "{name}{}{}",
                        if user.disabled { "  (disabled)" } else { "" },
                        if addresses.is_empty() {
                            String::new()
                        } else {
                            format!("  {}", addresses.join(", "))
                        }
                    ))?;
                }
            }
        }
    }
    Ok(())
}

fn password(arguments: &UserArguments) -> anyhow::Result<String> {
    let password = if arguments.password_stdin {
        let mut password = String::new();
        std::io::stdin()
            .lock()
            .read_line(&mut password)
            .context("reading the password from standard input")?;
        password.trim_end_matches(['\r', '\n']).to_owned()
    } else {
        let first = rpassword::prompt_password(format!("Password for {}: ", arguments.name))
            .context("asking for the password; without a terminal use --password-stdin")?;
        if rpassword::prompt_password("Again: ")? != first {
            bail!("the two are not the same; nothing was changed");
        }
        first
    };
    if password.is_empty() {
        bail!("the password is empty; nothing was changed");
    }
    Ok(password)
}
