package lab

import "strings"

// Platform is what the firmware tells of the machine (SMBIOS types 1 and 3),
// by which cloud-init knows its cloud.
type Platform struct {
	UUID, Serial, Manufacturer, Product, AssetTag string
}

// EC2Platform is an EC2 instance. uuid must start with "ec2".
func EC2Platform(uuid string) Platform {
	return Platform{UUID: uuid, Serial: uuid, Manufacturer: "Amazon EC2", Product: "t3.micro"}
}

// OpenStackPlatform is a server of OpenStack Nova; uuid is its identity.
func OpenStackPlatform(uuid string) Platform {
	return Platform{UUID: uuid, Serial: uuid, Manufacturer: "OpenStack Foundation", Product: "OpenStack Nova"}
}

// AzurePlatform is a VM on Azure; uuid is its identity.
func AzurePlatform(uuid string) Platform {
	return Platform{
		UUID: uuid, Serial: "0000-0002-8036-1108-9588-2134-52", Manufacturer: "Microsoft Corporation", Product: "Virtual Machine",
		AssetTag: "7783-7084-3265-9085-8269-3286-77",
	}
}

// GCEPlatform is a VM on Google Compute Engine.
func GCEPlatform(uuid string) Platform {
	return Platform{UUID: uuid, Serial: "GoogleCloud-" + strings.ToUpper(strings.ReplaceAll(uuid, "-", "")), Manufacturer: "Google", Product: "Google Compute Engine"}
}

// CD is a disc with files, such as OpenStack's config drive (label
// "config-2") and Azure's provisioning disk. Files may be in folders; a
// name's case is lost.
type CD struct {
	Label string
	Files map[string][]byte
	// Drive puts it in a CD drive, which the guest finds late in its boot.
	// Else it is a disk that is there from the start, as everything is with
	// a distribution's own initrd.
	Drive bool
}

// NoCloud is a seed for the datasource of the same name.
type NoCloud struct {
	InstanceID, Hostname string
	UserData             []byte
}

func (p Platform) args() []string {
	var a []string
	system := "type=1"
	for _, f := range [][2]string{{"uuid", p.UUID}, {"serial", p.Serial}, {"manufacturer", p.Manufacturer}, {"product", p.Product}} {
		if f[1] != "" {
			system += "," + f[0] + "=" + strings.ReplaceAll(f[1], ",", ",,")
		}
	}
	if system != "type=1" {
		a = append(a, "-smbios", system)
	}
	if p.AssetTag != "" {
		a = append(a, "-smbios", "type=3,asset="+strings.ReplaceAll(p.AssetTag, ",", ",,"))
	}
	return a
}
