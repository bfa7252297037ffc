"""The cluster on AWS: templates, the installation of Argo, and the programs behind the Makefile's targets."""
