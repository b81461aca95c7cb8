package userdata

import (
	"fmt"
	"strings"
)

// Values of the tool of [How].
const (
	HowCommand   = "command"   // the cloud's own command
	HowTerraform = "terraform" // a resource of Terraform or OpenTofu
	HowPacker    = "packer"    // a source of Packer
)

// A how says, for each tool, how a VM gets user-data that is in the file
// {file}, as bootwell prints it for that cloud. {role} is the role. What only
// the user knows is a variable.
type how struct{ command, terraform, packer string }

// How returns the text that makes a VM of a role with tool in a cloud: shell,
// or HCL. It begins with what makes the file with the user-data, for which
// flags are those that bootwell user-data needs. Its error wraps [ErrConfig].
func How(cloudName, tool, role, flags string) (string, error) {
	c, err := findCloud(cloudName)
	if err != nil {
		return "", err
	}
	if !namePattern().MatchString(role) {
		return "", fmt.Errorf("role %.80q: use lower-case letters, digits, - or _, starting with a letter: %w", role, ErrConfig)
	}
	text, ok := map[string]string{HowCommand: c.how.command, HowTerraform: c.how.terraform, HowPacker: c.how.packer}[tool]
	if !ok {
		return "", fmt.Errorf("how %.40q: write %s, %s or %s: %w", tool, HowCommand, HowTerraform, HowPacker, ErrConfig)
	}
	if text == "" {
		return "", fmt.Errorf("how: %s has nothing for %s: %w", tool, c.title, ErrConfig)
	}
	first := "bootwell user-data " + role + flags + " > {file}\n"
	if tool != HowCommand {
		first = "# " + first
	}
	return strings.NewReplacer("{file}", role+".user-data", "{role}", role).Replace(first + text), nil
}

var (
	howAWS = how{
		command: `aws ec2 run-instances --image-id "$IMAGE" --instance-type t3.small --subnet-id "$SUBNET" \
  --iam-instance-profile Name="$PROFILE" --metadata-options HttpTokens=required --user-data file://{file}
`,
		terraform: `resource "aws_instance" "{role}" {
  ami                  = var.image
  instance_type        = "t3.small"
  subnet_id            = var.subnet
  iam_instance_profile = var.profile
  user_data            = file("${path.module}/{file}")

  metadata_options {
    http_tokens = "required"
  }
}
`,
		packer: `source "amazon-ebs" "{role}" {
  ami_name             = "{role}"
  source_ami           = var.image
  instance_type        = "t3.small"
  iam_instance_profile = var.profile
  ssh_username         = "admin"
  user_data_file       = "{file}"
}
`,
	}
	howAzure = how{
		command: `az vm create --resource-group "$GROUP" --name {role}-1 --image Debian:debian-12:12-gen2:latest \
  --assign-identity --custom-data {file}
`,
		terraform: `resource "azurerm_linux_virtual_machine" "{role}" {
  name                  = "{role}-1"
  resource_group_name   = var.group
  location              = var.location
  size                  = "Standard_B1s"
  admin_username        = "admin1"
  network_interface_ids = var.interfaces
  custom_data           = filebase64("${path.module}/{file}")

  identity {
    type = "SystemAssigned"
  }

  admin_ssh_key {
    username   = "admin1"
    public_key = var.public_key
  }

  os_disk {
    caching              = "ReadWrite"
    storage_account_type = "Standard_LRS"
  }

  source_image_reference {
    publisher = "Debian"
    offer     = "debian-12"
    sku       = "12-gen2"
    version   = "latest"
  }
}
`,
		packer: `source "azure-arm" "{role}" {
  managed_image_name                = "{role}"
  managed_image_resource_group_name = var.group
  location                          = var.location
  vm_size                           = "Standard_B1s"
  os_type                           = "Linux"
  image_publisher                   = "Debian"
  image_offer                       = "debian-12"
  image_sku                         = "12-gen2"
  custom_data_file                  = "{file}"
}
`,
	}
	howOpenStack = how{
		command: `openstack server create --image "$IMAGE" --flavor "$FLAVOR" --network "$NETWORK" \
  --config-drive true --user-data {file} {role}-1
`,
		terraform: `resource "openstack_compute_instance_v2" "{role}" {
  name         = "{role}-1"
  image_name   = var.image
  flavor_name  = var.flavor
  config_drive = true
  user_data    = file("${path.module}/{file}")

  network {
    name = var.network
  }
}
`,
		packer: `source "openstack" "{role}" {
  image_name        = "{role}"
  source_image_name = var.image
  flavor            = var.flavor
  networks          = [var.network]
  ssh_username      = "debian"
  config_drive      = true
  user_data_file    = "{file}"
}
`,
	}
	howGoogle = how{
		command: `# Of Google's images, those of Ubuntu have cloud-init. Others run a text of --format script as startup-script.
gcloud compute instances create {role}-1 --image-family ubuntu-2404-lts-amd64 --image-project ubuntu-os-cloud \
  --zone "$ZONE" --scopes storage-rw --metadata-from-file user-data={file}
`,
		terraform: `resource "google_compute_instance" "{role}" {
  name         = "{role}-1"
  zone         = var.zone
  machine_type = "e2-small"

  metadata = {
    user-data = file("${path.module}/{file}")
  }

  boot_disk {
    initialize_params {
      image = "ubuntu-os-cloud/ubuntu-2404-lts-amd64"
    }
  }

  network_interface {
    network = "default"
  }

  service_account {
    scopes = ["storage-rw"]
  }
}
`,
		packer: `source "googlecompute" "{role}" {
  project_id          = var.project
  zone                = var.zone
  image_name          = "{role}"
  source_image_family = "ubuntu-2404-lts-amd64"
  ssh_username        = "packer"
  metadata_files = {
    user-data = "{file}"
  }
}
`,
	}
	howHetzner = how{
		command: `hcloud server create --name {role}-1 --type cx22 --image debian-12 --user-data-from-file {file}
`,
		terraform: `resource "hcloud_server" "{role}" {
  name        = "{role}-1"
  server_type = "cx22"
  image       = "debian-12"
  user_data   = file("${path.module}/{file}")
}
`,
		packer: `source "hcloud" "{role}" {
  snapshot_name  = "{role}"
  server_type    = "cx22"
  image          = "debian-12"
  location       = var.location
  ssh_username   = "root"
  user_data_file = "{file}"
}
`,
	}
	howDigitalOcean = how{
		command: `doctl compute droplet create {role}-1 --image debian-12-x64 --size s-1vcpu-1gb --region "$REGION" \
  --user-data-file {file}
`,
		terraform: `resource "digitalocean_droplet" "{role}" {
  name      = "{role}-1"
  image     = "debian-12-x64"
  size      = "s-1vcpu-1gb"
  region    = var.region
  user_data = file("${path.module}/{file}")
}
`,
		packer: `source "digitalocean" "{role}" {
  snapshot_name  = "{role}"
  image          = "debian-12-x64"
  size           = "s-1vcpu-1gb"
  region         = var.region
  ssh_username   = "root"
  user_data_file = "{file}"
}
`,
	}
	howLinode = how{
		command: `linode-cli linodes create --label {role}-1 --type g6-nanode-1 --image linode/debian12 --region "$REGION" \
  --authorized_users "$LINODE_USER" --metadata.user_data "$(cat {file})"
`,
		terraform: `resource "linode_instance" "{role}" {
  label            = "{role}-1"
  type             = "g6-nanode-1"
  image            = "linode/debian12"
  region           = var.region
  authorized_users = var.users

  metadata {
    user_data = chomp(file("${path.module}/{file}"))
  }
}
`,
	}
	howOracle = how{
		command: `oci compute instance launch --display-name {role}-1 --compartment-id "$COMPARTMENT" --availability-domain "$DOMAIN" \
  --shape VM.Standard.E2.1.Micro --image-id "$IMAGE" --subnet-id "$SUBNET" --user-data-file {file}
`,
		terraform: `resource "oci_core_instance" "{role}" {
  display_name        = "{role}-1"
  compartment_id      = var.compartment
  availability_domain = var.domain
  shape               = "VM.Standard.E2.1.Micro"

  metadata = {
    user_data = filebase64("${path.module}/{file}")
  }

  source_details {
    source_type = "image"
    source_id   = var.image
  }

  create_vnic_details {
    subnet_id = var.subnet
  }
}
`,
		packer: `source "oracle-oci" "{role}" {
  image_name          = "{role}"
  compartment_ocid    = var.compartment
  availability_domain = var.domain
  shape               = "VM.Standard.E2.1.Micro"
  base_image_ocid     = var.image
  subnet_ocid         = var.subnet
  ssh_username        = "ubuntu"
  user_data_file      = "{file}"
}
`,
	}
	howProxmox = how{
		command: `# The storage "local" must allow snippets. What Proxmox itself puts into user-data, such as keys, is not in it then.
scp {file} root@"$NODE":/var/lib/vz/snippets/{role}.yaml
ssh root@"$NODE" qm set "$VMID" --cicustom user=local:snippets/{role}.yaml
`,
		terraform: `resource "proxmox_virtual_environment_file" "{role}" {
  content_type = "snippets"
  datastore_id = "local"
  node_name    = var.node

  source_raw {
    data      = file("${path.module}/{file}")
    file_name = "{role}.yaml"
  }
}

resource "proxmox_virtual_environment_vm" "{role}" {
  name      = "{role}-1"
  node_name = var.node

  clone {
    vm_id = var.template
  }

  initialization {
    user_data_file_id = proxmox_virtual_environment_file.{role}.id

    ip_config {
      ipv4 {
        address = "dhcp"
      }
    }
  }
}
`,
	}
	howLibvirt = how{
		command: `virt-install --name {role}-1 --memory 1024 --vcpus 1 --osinfo debian12 --import \
  --disk size=10,backing_store="$IMAGE" --cloud-init user-data={file} --noautoconsole
`,
		terraform: `resource "libvirt_cloudinit_disk" "{role}" {
  name      = "{role}.iso"
  user_data = file("${path.module}/{file}")
  meta_data = jsonencode({ instance-id = "{role}-1" })
}
`,
		packer: packerQEMU,
	}
	howVSphere = how{
		command: `govc vm.change -vm "$VM" -e guestinfo.userdata="$(cat {file})" -e guestinfo.userdata.encoding=base64
`,
		terraform: `resource "vsphere_virtual_machine" "{role}" {
  name             = "{role}-1"
  resource_pool_id = var.pool
  datastore_id     = var.datastore
  guest_id         = "debian12_64Guest"
  num_cpus         = 1
  memory           = 1024

  extra_config = {
    "guestinfo.userdata"          = chomp(file("${path.module}/{file}"))
    "guestinfo.userdata.encoding" = "base64"
  }

  clone {
    template_uuid = var.template
  }

  network_interface {
    network_id = var.network
  }

  disk {
    label = "disk0"
    size  = 10
  }
}
`,
		packer: `source "vsphere-clone" "{role}" {
  vm_name      = "{role}"
  template     = var.template
  cluster      = var.cluster
  datastore    = var.datastore
  ssh_username = "debian"
  configuration_parameters = {
    "guestinfo.userdata"          = chomp(file("{file}"))
    "guestinfo.userdata.encoding" = "base64"
  }
}
`,
	}
	howNoCloud = how{
		command: `printf 'instance-id: %s\n' {role}-1 > {role}.meta-data
cloud-localds {role}.iso {file} {role}.meta-data
`,
		packer: packerQEMU,
	}
)

// packerQEMU gives the VM a NoCloud disk.
const packerQEMU = `source "qemu" "{role}" {
  iso_url      = var.image
  iso_checksum = var.checksum
  disk_image   = true
  ssh_username = "debian"
  cd_label     = "cidata"
  cd_content = {
    "meta-data" = "instance-id: {role}\n"
    "user-data" = file("{file}")
  }
}
`
